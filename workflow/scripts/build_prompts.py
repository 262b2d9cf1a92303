"""Write an arm's prompts, for training and for generation."""

from histoprompt.job import job
from histoprompt.prompts import build_prompts

if __name__ == "__main__":
    with job(snakemake.log[0], "build_prompts"):
        build_prompts(
            snakemake.input.patches,
            snakemake.input.subset_train,
            snakemake.input.subset_valid,
            snakemake.output.train,
            snakemake.output.valid,
            snakemake.output.generate,
            prompts=snakemake.params.prompts,
            templates=snakemake.params.templates,
            train=snakemake.params.train,
            images=snakemake.params.images,
            seed=snakemake.params.seed,
        )
