"""An MCP server by hand, for what the SDK would not do: pages, wrong schemas, silence.

python mcp_by_hand.py TOOLS.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def answer(asked: dict[str, Any], told: dict[str, Any]) -> dict[str, Any] | None:
    method, given = asked["method"], asked.get("params", {})
    if method == "initialize":
        info = {"name": told.get("name", "by hand"), "version": "1"}
        return {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}}, "serverInfo": info}
    if method == "tools/list":
        if told.get("endless"):
            return {"tools": [], "nextCursor": "again"}
        page = int(given.get("cursor", 0))
        more = {"nextCursor": str(page + 1)} if page + 1 < len(told["pages"]) else {}
        return {"tools": told["pages"][page], **more}
    if method == "tools/call":
        return told["result"]
    return None


def main() -> None:
    told = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    for line in sys.stdin:
        asked = json.loads(line)
        if "id" not in asked:
            continue
        found = answer(asked, told)
        wrong = {"error": {"code": -32601, "message": "there is no such method"}}
        if told.get("noise"):  # in Latin-1, which is no UTF-8
            sys.stdout.buffer.write(f"{told['noise']}\n".encode("latin-1"))
            sys.stdout.buffer.flush()
        said = {"jsonrpc": "2.0", "id": asked["id"], **(wrong if found is None else {"result": found})}
        print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main()
