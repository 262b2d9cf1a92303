"""Draw the training images: equal numbers per label and per prompt."""

from histoprompt.job import job
from histoprompt.subset import balance_subset

if __name__ == "__main__":
    with job(snakemake.log[0], "balance_subset"):
        balance_subset(
            snakemake.input.train,
            snakemake.input.valid,
            snakemake.output.train,
            snakemake.output.valid,
            train=snakemake.params.train,
            valid=snakemake.params.valid,
            min_prompts_per_label=snakemake.params.min_prompts_per_label,
            seed=snakemake.params.seed,
        )
