"""What each guard of an adapter stage saves and costs on MSRD and MT-RAG; see `__main__`."""
