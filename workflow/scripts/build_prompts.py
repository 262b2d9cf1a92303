"""Write an arm's prompts, for training and for generation."""

from histoprompt.job import job
from histoprompt.prompts import build_prompts

if __name__ == "__main__":
    with job(snakemake.log[0], "build_prompts"):
        build_prompts(
            snakemake.input.patches,
            snakemake.input.subset_train,
            snakemake.input.subset_valid,
            snakemake.input.descriptors_train or None,
            snakemake.input.descriptors_valid or None,
            snakemake.input.vocabulary or None,
            snakemake.output.train,
            snakemake.output.valid,
            snakemake.output.generate,
            prompts=snakemake.params.prompts,
            templates=snakemake.params.templates,
            train=snakemake.params.train,
            index=snakemake.params.index,
            images=snakemake.params.images,
            seed=snakemake.params.seed,
        )
