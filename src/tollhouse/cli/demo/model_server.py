"""The demo's model, as a process of its own: llama.cpp's HTTP server, which speaks OpenAI's API.

``python -m tollhouse.cli.demo.model_server FILE.gguf`` prints its address once it answers, and serves until its
standard input ends, as it does when the demo ends, however that comes.
"""

import os
import sys

_CONTEXT_TOKENS = 2048
_MAX_THREADS = 4
# Always the likeliest word lets a model this small go round in circles; the seed makes its answers repeatable.
_TEMPERATURE = 0.4
_SEED = 42
_LOG_ERRORS_ONLY = 1


def main() -> None:
    """Serve the model that the first argument names."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = sys.argv[1]
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.n_ctx = _CONTEXT_TOKENS
    params.n_parallel = 1
    # A core is left to the service and whatever else runs: the threads wait for each other at every step.
    threads = max(1, min(_MAX_THREADS, (os.cpu_count() or 1) - 1))
    params.cpuparams.n_threads = threads
    params.cpuparams_batch.n_threads = threads
    params.sampling.temp = _TEMPERATURE
    params.sampling.seed = _SEED
    params.verbosity = _LOG_ERRORS_ONLY
    # It is for Tollhouse alone: no page to look at, and no web page may call it.
    params.ui = False
    params.endpoint_slots = False
    params.cors_origins = ""
    server = xllamacpp.Server(params)
    sys.stdout.write(f"{server.listening_address}\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    main()
