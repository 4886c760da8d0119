"""Several nets that differ in numbers only, trained as one batched net.

`kinds` tells which nets can train together, and `loop.train_together` trains them.
`nets.JointNets` makes their steps, with the weights, rows, passes and constraints of
all nets side by side, each in a module of its own.
"""
