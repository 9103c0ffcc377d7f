"""Python client and worker for tasks-gateway; knows the wire protocol only."""
