"""The two nginx: an upstream that gives every call the same recorded answer, and a bare proxy in front of it."""

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from bench.processes import children, stop

_START_TIMEOUT_S = 5.0

# As api.openai.com answers; the text is about as long as the example call of the public contract gets.
_ANSWER = {
    "id": "chatcmpl-Dyln6nXFb07wOIPj5NWCmPOcd3GOs",
    "object": "chat.completion",
    "created": 1783375760,
    "model": "gpt-4o-mini-2024-07-18",
    "choices": [
        {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": "Sales rose by four percent against yesterday, led by tea (+10) and bread (+10). Milk and "
                "coffee moved by five each. Restock bread before the weekend; sugar needs no order yet.",
                "refusal": None,
                "annotations": [],
            },
            "logprobs": None,
            "finish_reason": "stop",
        }
    ],
    "usage": {
        "prompt_tokens": 86,
        "completion_tokens": 44,
        "total_tokens": 130,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
    },
    "service_tier": "default",
    "system_fingerprint": "fp_f38e8ce955",
}

_CONFIG = """
worker_processes 1; daemon off; pid {home}/{name}.pid; error_log {home}/{name}.log;
events {{ worker_connections 8192; }}
http {{
  access_log off; keepalive_requests 1000000000; client_body_buffer_size 64k;
  client_body_temp_path {home}/body; proxy_temp_path {home}/proxy; fastcgi_temp_path {home}/fastcgi;
  uwsgi_temp_path {home}/uwsgi; scgi_temp_path {home}/scgi;
  {http}
}}
"""
_UPSTREAM = """
  default_type application/json;
  server {{ listen 127.0.0.1:{port}; location / {{
    add_header x-request-id req_8a3b256eb80d; add_header openai-processing-ms 512; return 200 '{answer}'; }} }}
"""
_PROXY = """
  upstream provider {{ server 127.0.0.1:{upstream_port}; keepalive 1024; keepalive_requests 1000000000; }}
  server {{ listen 127.0.0.1:{port}; location / {{
    proxy_pass http://provider; proxy_http_version 1.1; proxy_set_header Connection "";
    proxy_buffering {buffering}; }} }}
"""


class Nginx(msgspec.Struct, frozen=True):
    """A running nginx.

    Attributes:
        pid: its one worker, which does all the work.
    """

    port: int
    pid: int


@contextmanager
def upstream(home: Path) -> Iterator[Nginx]:
    """Run a provider that costs as little as can be; its files are kept in ``home``."""
    answer = msgspec.json.encode(_ANSWER).decode()
    assert not {"'", "$"} & set(answer), "the configuration quotes the answer so"
    port = free_port()
    with _running(home, "upstream", port, _UPSTREAM.format(port=port, answer=answer)) as nginx:
        yield nginx


@contextmanager
def proxy(home: Path, upstream_port: int, name: str = "proxy", *, is_buffering: bool = True) -> Iterator[Nginx]:
    """Run the baseline: ``proxy_pass`` over kept-alive connections, and nothing else."""
    port = free_port()
    buffering = "on" if is_buffering else "off"
    http = _PROXY.format(port=port, upstream_port=upstream_port, buffering=buffering)
    with _running(home, name, port, http) as nginx:
        yield nginx


@contextmanager
def _running(home: Path, name: str, port: int, http: str) -> Iterator[Nginx]:
    config = home / f"{name}.conf"
    config.write_text(_CONFIG.format(home=home, name=name, http=http))
    process = subprocess.Popen([executable(), "-c", str(config), "-p", str(home)], text=True)
    try:
        await_port(port)
        # The port listens a moment before the worker is there to answer.
        while not (workers := children(process.pid)):
            time.sleep(0.01)
        yield Nginx(port, workers[0])
    finally:
        stop(process)


def executable() -> str:
    """Return where nginx is; raises RuntimeError when it is not installed."""
    found = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if found is None:
        raise RuntimeError("nginx is needed as the baseline: apt-get install nginx-light, or the like")
    return found


def version() -> str:
    """Return nginx's version."""
    # nginx tells it on standard error.
    told = subprocess.run([executable(), "-v"], capture_output=True, text=True, check=True).stderr
    return told.strip().rpartition("/")[2]


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def await_port(port: int) -> None:
    """Wait until something listens; raises ConnectionRefusedError when nothing does in time."""
    give_up_s = time.monotonic() + _START_TIMEOUT_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            if time.monotonic() >= give_up_s:
                raise
            time.sleep(0.01)
        else:
            return
