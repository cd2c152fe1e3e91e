"""Attaches tracker, cures and reports to networks of other quantization toolkits ("stacks").

site.py              what quiesce needs from a stack for one weight: read, hook, hold
attached_weight.py   a `QuantizedWeight` on top of a site
catalog.py           the stacks, their tested versions, and what works with each
attach.py            finds the weights of a model
brevitas.py ...      one file for each stack; imported only if its package already is
"""
