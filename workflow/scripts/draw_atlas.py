"""Draw a row of patches a cluster."""

from histoprompt.figures import draw_atlas
from histoprompt.job import job

if __name__ == "__main__":
    with job(snakemake.log[0], "draw_atlas"):
        draw_atlas(
            snakemake.input.patches,
            snakemake.input.assignments,
            snakemake.output[0],
            per_cluster=snakemake.params.per_cluster,
            seed=snakemake.params.seed,
        )
