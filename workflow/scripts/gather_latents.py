"""Put the shards of a split's latents together."""

from histoprompt.arrays import gather_latents
from histoprompt.job import job

if __name__ == "__main__":
    with job(snakemake.log[0], "gather_latents"):
        gather_latents(snakemake.input.latents, snakemake.input.rows, snakemake.output.latents, snakemake.output.rows)
