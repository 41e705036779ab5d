"""What agents may ask of a server, by the Model Context Protocol (MCP): its tools, and how they are done.

Every call of a tool becomes requests to the API, as any other client sends them. Of these modules only ``protocol``
imports the SDK, so that a front that no agent asks, and a command that is not ``darkroom mcp``, never do.
"""
