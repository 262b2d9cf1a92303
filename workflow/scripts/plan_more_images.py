"""Decide which prompts a request for more images is for."""

from histoprompt.job import job
from histoprompt.more.plan import plan_more_images

if __name__ == "__main__":
    with job(snakemake.log[0], "plan_more_images"):
        plan_more_images(
            snakemake.input.train,
            snakemake.input.wishes or None,
            snakemake.input.patches,
            snakemake.output[0],
            request=snakemake.wildcards.request,
        )
