"""The one thing that travels: opening and making checkpoints, the Hub, llama2.c files, models of others."""
