"""An engine on a server: vLLM, `searchlora serve`, or another that speaks OpenAI's HTTP API.

`http` carries JSON there and back with time-outs and retries, `dialects` says how each kind of server is asked,
`models` what it calls an adapter, `engine` keeps the engine contract over them.
"""
