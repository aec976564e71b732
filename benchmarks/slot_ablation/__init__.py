"""What each slot of the ready pipelines brings on Chorus, MSRD and MT-RAG; see `__main__`."""
