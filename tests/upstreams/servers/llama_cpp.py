"""Serves a GGUF model with llama.cpp's HTTP server, on a free port of the loopback: `llama_cpp.py MODEL`."""

import os
import signal
import sys

import xllamacpp

parameters = xllamacpp.CommonParams()
parameters.model.path = sys.argv[1]
parameters.hostnames = ["127.0.0.1"]
parameters.port = 0
# Four at once, each with the model's whole context.
parameters.n_parallel = 4
parameters.n_ctx = 4 * 32768
parameters.cpuparams.n_threads = 1
parameters.cpuparams_batch.n_threads = 1
parameters.endpoint_slots = True
parameters.warmup = False
parameters.ui = False
parameters.fit_params = False

server = xllamacpp.Server(parameters)
# In one write: its log goes to the same place from a thread of its own.
os.write(1, f"serving at {server.listening_address} \n".encode())
signal.pause()
