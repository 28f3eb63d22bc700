"""How tools are named in an agent's config, and servers in the settings."""

from typing import Any

import pytest

from services.agent.settings import AgentSettings
from services.agent.tools.names import tool_names, unknown_servers
from services.kit.settings import load


def test_a_config_without_tools_names_none() -> None:
    assert list(tool_names({"temperature": 0.2})) == []


def test_names_come_in_their_order() -> None:
    names = ["web.search", "crm.*", "files-2.read.all", "a_b.c/d"]
    assert list(tool_names({"tools": names})) == names
    assert len(tool_names({"tools": [f"a.t{number}" for number in range(64)]})) == 64


@pytest.mark.parametrize(
    ("tools", "why"),
    [
        ([], "config.tools must be a list of 1 to 64 names."),
        ("web.search", "config.tools must be a list of 1 to 64 names."),
        (None, "config.tools must be a list of 1 to 64 names."),
        ({"web": "search"}, "config.tools must be a list of 1 to 64 names."),
        ([f"a.t{number}" for number in range(65)], "config.tools must be a list of 1 to 64 names."),
        (["web.search", "search"], "config.tools[1] must be of the form server.tool or server.*."),
        (["web."], "config.tools[0] must be of the form server.tool or server.*."),
        ([".search"], "config.tools[0] must be of the form server.tool or server.*."),
        (["*"], "config.tools[0] must be of the form server.tool or server.*."),
        (["*.search"], "config.tools[0] must be of the form server.tool or server.*."),
        (["web.sea*"], "config.tools[0] must be of the form server.tool or server.*."),
        (["Web.search"], "config.tools[0] must be of the form server.tool or server.*."),
        (["web.search\n"], "config.tools[0] must be of the form server.tool or server.*."),
        ([f"{'w' * 33}.search"], "config.tools[0] must be of the form server.tool or server.*."),
        ([f"web.{'s' * 129}"], "config.tools[0] must be of the form server.tool or server.*."),
        ([7], "config.tools[0] must be of the form server.tool or server.*."),
        (["web.search", "web.search"], "config.tools[1] repeats web.search."),
    ],
)
def test_other_names_are_refused(tools: Any, why: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011  # its whole text is compared
        tool_names({"tools": tools})
    assert str(caught.value) == why


def test_servers_that_there_are_not_are_found() -> None:
    assert list(unknown_servers(["web.a", "crm.*", "web.b", "erp.c", "crm.d"], {"web"})) == ["crm", "erp"]


def test_servers_are_set_by_name_and_url(settings: Any) -> None:
    written = "web=http://127.0.0.1:8000/mcp, crm_2=https://crm.example/mcp?key=a=b"
    made = settings(AgentSettings, agent_mcp_servers=written)
    assert made.mcp_servers == {"web": "http://127.0.0.1:8000/mcp", "crm_2": "https://crm.example/mcp?key=a=b"}
    assert settings(AgentSettings).mcp_servers == {}
    assert settings(AgentSettings, agent_mcp_servers=" ").mcp_servers == {}


@pytest.mark.parametrize(
    ("written", "why"),
    [
        ("http://user:s3cret@host/mcp", "must be name=url"),
        ("Web=http://user:s3cret@host/mcp", "must be name=url"),
        ("web=http://user:s3cret@host/mcp,", "must be name=url"),
        ("=http://user:s3cret@host/mcp", "must be name=url"),
        ("web=ftp://user:s3cret@host/mcp", "the URL of web must be"),
        ("web=user:s3cret@host", "the URL of web must be"),
        ("web=http://", "the URL of web must be"),
        ("web=http://user:s3cret@host:x/mcp", "the URL of web must be"),
        ("web=http://user:s3cret@host /mcp", "the URL of web must be"),
        ("web=http://user:s3cret@host/mcp,web=http://user:s3cret@host/mcp", "web is there twice"),
    ],
)
def test_a_wrong_value_is_one_line_that_repeats_no_secret(
    written: str, why: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PARLEY_DATABASE_URL", "postgresql://ann:the-password@127.0.0.1:5432/parley")
    monkeypatch.setenv("PARLEY_AGENT_MCP_SERVERS", written)
    with pytest.raises(SystemExit) as caught:
        load(AgentSettings)
    assert caught.value.code == 2
    (only,) = capsys.readouterr().err.splitlines()
    assert only.startswith(f"parley: PARLEY_AGENT_MCP_SERVERS: {why}")
    assert "s3cret" not in only
