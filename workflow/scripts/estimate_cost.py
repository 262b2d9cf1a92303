"""What the study will cost, as a page and on the terminal."""

from histoprompt.costs import estimate_cost
from histoprompt.job import job

if __name__ == "__main__":
    with job(snakemake.log[0], "estimate_cost"):
        estimate_cost(
            snakemake.output[0],
            study=snakemake.wildcards.study,
            model=snakemake.params.model,
            revision=snakemake.params.revision,
            resolution=snakemake.params.resolution,
            patch_size=snakemake.params.patch_size,
            encoders=snakemake.params.encoders,
            arms=snakemake.params.arms,
            train=snakemake.params.train,
            valid=snakemake.params.valid,
            sets=snakemake.params.sets,
        )
