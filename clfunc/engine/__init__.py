"""How a scan is run: step by step, traced, compiled or as a CUDA graph; and many runs as one."""
