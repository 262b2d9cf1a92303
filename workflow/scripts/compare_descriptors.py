"""Compare what is measured in images with what their prompts say."""

from histoprompt.job import job
from histoprompt.wording import compare_descriptors

if __name__ == "__main__":
    with job(snakemake.log[0], "compare_descriptors"):
        compare_descriptors(
            snakemake.input.asked,
            snakemake.input.images,
            snakemake.input.train,
            snakemake.input.vocabulary,
            snakemake.output[0],
            name=snakemake.wildcards.sampled,
            named=snakemake.params.named,
        )
