"""Strategies of Flower as strategies of ours; needs the extra ``fedloom[flower]``.

Flower is imported only where one is made. Of it, what its users see is used (``flwr.app``,
``flwr.serverapp``), and the one inner name that a process without Flower's runtime has to set.
"""
