"""A checkpoint is a complete Hub repository: make, open and publish it; open llama2.c files and models of others."""
