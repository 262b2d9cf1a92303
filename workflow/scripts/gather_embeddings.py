"""Put the shards of a split's embeddings together."""

from histoprompt.arrays import gather_rows
from histoprompt.job import job

if __name__ == "__main__":
    with job(snakemake.log[0], "gather_embeddings"):
        gather_rows(snakemake.input, snakemake.output[0])
