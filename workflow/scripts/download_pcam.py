"""Fetch and check PCam's official files."""

from histoprompt.importing import download_pcam
from histoprompt.job import job

if __name__ == "__main__":
    with job(snakemake.log[0], "download_pcam"):
        download_pcam(snakemake.params.folder)
