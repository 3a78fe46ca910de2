"""A small MCP server for the tests, made with the official SDK."""

from __future__ import annotations

import base64
import os

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import ImageContent, TextContent

server = MCPServer("small", log_level="ERROR")
PIXEL = ImageContent(type="image", data=base64.b64encode(b"GIF89a").decode(), mime_type="image/gif")


@server.tool()
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@server.tool()
def fail() -> str:
    """Fail."""
    raise ToolError("no order A1")


@server.tool(structured_output=False)
def picture() -> list[ImageContent]:
    """Give a picture."""
    return [PIXEL]


@server.tool(structured_output=False)
def captioned() -> list[TextContent | ImageContent]:
    """Give a picture and a text."""
    return [TextContent(type="text", text="a cat"), PIXEL]


@server.tool()
def variables() -> dict[str, str]:
    """Give all environment variables."""
    return dict(os.environ)


@server.tool()
def die() -> str:
    """End the process."""
    os._exit(3)


@server.tool()
def unused() -> str:
    """Be left out."""
    return ""


if __name__ == "__main__":
    server.run("stdio")
