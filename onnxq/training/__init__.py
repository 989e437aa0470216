"""Learning numbers of a graph by gradients: what is learned as inputs, of blocks or of all, and the loops.

Sessions are opened by whoever asks; nothing here imports a runtime.
"""
