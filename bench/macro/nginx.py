"""Configuration text of the two nginx roles: mock upstream and peer gateway."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from bench.macro import payloads

_MODULES: Final = Path("/usr/lib/nginx/modules")
# One body of 10 MiB stays in memory: neither role may touch the disk.
_BODY_BUFFER: Final = "16m"
_INSPECTED_BODY_BYTES: Final = 65536
_MANY_REQUESTS: Final = 1_000_000_000


def _frame(folder: Path, name: str, servers: str, modules: Sequence[str] = ()) -> str:
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temp = "\n".join(f"  {kind}_temp_path {folder}/{name}-{kind};" for kind in kinds)
    return f"""{"".join(f"load_module {_MODULES}/{module};{chr(10)}" for module in modules)}\
{"user root root;" if os.geteuid() == 0 else ""}
worker_processes 1; daemon off; pid {folder}/{name}.pid; error_log stderr warn;
events {{ worker_connections 8192; }}
http {{
{temp}
  access_log off; tcp_nodelay on; keepalive_timeout 600s; keepalive_requests {_MANY_REQUESTS};
  client_body_buffer_size {_BODY_BUFFER}; client_max_body_size 64m;
{servers}
}}
"""


def upstream_lua() -> str:
    """Return the Lua that answers: a stream if the body asks for one, else the chat answer.

    Bodies over 64 KiB are read but not looked at, so that the mock does not stall on the big request itself.
    """
    pairs = payloads.UPSTREAM_HEADERS.items()
    headers = "\n".join(f'ngx.header["{name}"] = "{value}"' for name, value in pairs)
    return f"""
ngx.req.read_body()
{headers}
local length = tonumber(ngx.var.content_length)
local body = (length and length <= {_INSPECTED_BODY_BYTES} or not length) and ngx.req.get_body_data() or ""
if body:find('"stream":%s*true') then
  ngx.header["content-type"] = "text/event-stream; charset=utf-8"
  local paced = body:find('"user":%s*"{payloads.PACED_USER}"')
  for _ = 1, {payloads.STREAM_CHUNKS} do
    ngx.print([==[{payloads.content_event()}]==], "\\n\\n")
    ngx.flush(true)
    if paced then ngx.sleep({payloads.PACED_CHUNK_GAP_S}) end
  end
  ngx.print([==[{payloads.usage_event()}]==], "\\n\\ndata: [DONE]\\n\\n")
else
  local answer = [==[{payloads.answer()}]==]
  ngx.header["content-type"] = "application/json"
  ngx.header["content-length"] = #answer
  ngx.print(answer)
end
"""


def upstream_config(folder: Path, port: int, tls_port: int, certificate: Path, key: Path) -> str:
    """Return the mock upstream: the same answers on a plain and on a TLS port."""
    servers = f"""  server {{
    listen 127.0.0.1:{port} backlog=4096;
    listen 127.0.0.1:{tls_port} ssl backlog=4096;
    ssl_certificate {certificate}; ssl_certificate_key {key};
    location / {{ content_by_lua_block {{ {upstream_lua()} }} }}
  }}"""
    return _frame(folder, "upstream", servers, ("ndk_http_module.so", "ngx_http_lua_module.so"))


def proxy_config(folder: Path, name: str, port: int, scheme: str, to_port: int) -> str:
    """Return a bare keep-alive `proxy_pass` to the upstream; `scheme` is http or https."""
    servers = f"""  upstream mock {{
    server 127.0.0.1:{to_port}; keepalive 512; keepalive_requests {_MANY_REQUESTS};
  }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass {scheme}://mock; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
    }}
  }}"""
    return _frame(folder, name, servers)
