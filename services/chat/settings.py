"""Settings of the chat service."""

from pydantic import Field

from services.kit.settings import FileTargetSettings, Port, Seconds


class ChatSettings(FileTargetSettings):
    """What only the chat service needs."""

    chat_port: Port = Field(50054, description="Port of the chat service.")
    chat_max_subscriptions: int = Field(100, ge=1, le=1000, description="Rooms that one Connect stream may follow.")
    chat_look_seconds: Seconds = Field(
        0.8, description="Seconds between looks for events that no hint has told; the most that a lost hint costs."
    )
    chat_membership_seconds: Seconds = Field(
        2.0, description="Seconds between looks whether those who follow a room are still members."
    )
    chat_heartbeat_seconds: Seconds = Field(3.0, description="Seconds between two renewals of a process's lease.")
    chat_lease_seconds: Seconds = Field(
        10.0, description="Seconds without renewal after which a process counts as dead and its users as gone."
    )
    chat_go_away_seconds: Seconds = Field(
        1.0, description="Seconds from `go_away` to the end of a stream when the server stops; below the drain's."
    )
