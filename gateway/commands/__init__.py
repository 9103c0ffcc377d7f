"""The commands of `gateway`, a file a topic. They speak to a running gateway over HTTP, as any client would."""
