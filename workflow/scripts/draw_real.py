"""Draw the real images every arm is read against, as many as an arm has."""

from histoprompt.job import job
from histoprompt.subset import draw_real

if __name__ == "__main__":
    with job(snakemake.log[0], "draw_real"):
        draw_real(
            snakemake.input.patches,
            snakemake.input.subset,
            snakemake.output.images,
            snakemake.output.table,
            images=snakemake.params.images,
            seed=snakemake.params.seed,
        )
