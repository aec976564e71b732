"""Remote engine: vLLM, `searchlora serve`, or another server with OpenAI's HTTP API.

`http_client` sends JSON with time-outs and retries, `dialects` holds the requests and responses of each kind of server,
`server_models` maps adapters to the server's model names, `engine` implements the engine contract. `vllm_scoring`
scores choices on vLLM; `vllm_engine` is an engine whose vLLM this process starts and ends (`vllm_server`).
"""
