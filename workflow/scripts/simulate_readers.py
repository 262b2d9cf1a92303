"""Let simulated readers answer the page."""

from histoprompt.job import job
from histoprompt.reader_study.simulate import simulate_readers

if __name__ == "__main__":
    with job(snakemake.log[0], "simulate_readers"):
        simulate_readers(
            snakemake.input.key,
            dict(zip(snakemake.params.readers, snakemake.output, strict=True)),
            seed=snakemake.params.seed,
            diagnosis=snakemake.params.diagnosis,
        )
