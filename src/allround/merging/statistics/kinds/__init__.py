"""What can be known of a model's data, one kind a file.

A kind is a function of what one batch shows of one layer (`sees`: the rows of its `inputs`, its `outputs`, the
`gradients` at its outputs), or of the `gradients` of a parameter for one example. What batches give is added up and
divided by the number of rows, or put one after the other. `parts` names the tensors of a kind that has several for
each weight.
"""
