"""How tensors move between GPUs: the device, streams and events, CUDA IPC, NCCL.

Everything here speaks to an `interface.Device`; `cuda` is the real one and the only importer of cupy, `simulated`
runs the same code without a GPU and finds the races in it. Nothing here is loaded unless a plan has a GPU edge.
"""
