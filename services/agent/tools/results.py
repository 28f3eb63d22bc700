"""What an MCP server's tool answers, as text for a model."""

import json

from mcp_types import (
    AudioContent,
    BlobResourceContents,
    CallToolResult,
    ContentBlock,
    EmbeddedResource,
    ImageContent,
    ResourceLink,
    TextContent,
)

MAX_TEXT_BYTES = 64 * 1024


def text_of(result: CallToolResult) -> str:
    """The texts of a result, joined by newlines, with a note in place of what is none; cut at MAX_TEXT_BYTES.

    Without any text, structured content takes its place, as JSON.
    """
    parts = [_text_of_block(block) for block in result.content]
    has_text = any(isinstance(block, TextContent) for block in result.content)
    if result.structured_content is not None and not has_text:
        parts.insert(0, json.dumps(result.structured_content, ensure_ascii=False))
    return cut("\n".join(parts))


def cut(text: str) -> str:
    """A text that can be stored and sent: of at most MAX_TEXT_BYTES, with a note at the end if there was more."""
    # PostgreSQL takes no NUL, and half a surrogate pair is not UTF-8.
    data = text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode(errors="replace")
    if len(data) <= MAX_TEXT_BYTES:
        return data.decode()
    note = f"\n[cut: this is the beginning of {len(data)} bytes]"
    return data[: MAX_TEXT_BYTES - len(note)].decode(errors="ignore") + note


def _text_of_block(block: ContentBlock) -> str:
    match block:
        case TextContent():
            return block.text
        case ImageContent() | AudioContent():
            return f"[{block.mime_type}, {_decoded_size(block.data)} bytes]"
        case ResourceLink():
            return f"[link to {block.uri}]"
        case EmbeddedResource(resource=resource):
            if isinstance(resource, BlobResourceContents):
                return f"[{resource.mime_type or 'application/octet-stream'}, {_decoded_size(resource.blob)} bytes]"
            return resource.text


def _decoded_size(base64: str) -> int:
    return len(base64) * 3 // 4 - base64[-2:].count("=")
