"""Learning numbers of a graph by gradients: a part of it with what is quantized as inputs, and the loop.

Sessions are opened by whoever asks; nothing here imports a runtime.
"""
