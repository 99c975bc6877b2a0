"""The tool server: the same tools that an episode calls in its own process, offered over HTTP.

A :class:`ToolHost` answers calls; :class:`LocalHost` does so with tools in this process,
:class:`ToolClient` by asking servers. Every protocol of the server is written against it.
"""
