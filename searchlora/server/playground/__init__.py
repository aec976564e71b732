"""The playground: a page that searches by the pipelines of the server."""
