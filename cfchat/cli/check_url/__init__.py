"""Say what stands between a browser and a cfchat that is served somewhere (`cfchat check --url`).

`address` reads the URL, `call` opens connections and sends requests, and `steps` takes the steps in order. What is
judged are lists of what came and when (`pulse`) and header fields (`answers`, `cors`): these three are pure, and so is
`proxies`, which knows what each kind of proxy must be told.
"""
