"""The exported model over HTTP: FastAPI and uvicorn, one process that scores and others that decode."""
