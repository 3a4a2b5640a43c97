# An image for CI: `devpolicy` and nothing heavy. docker build -t devpolicy . && docker run --rm -v "$PWD:/work" devpolicy test policy.toml
FROM python:3.12-slim
COPY . /source
RUN pip install --no-cache-dir /source && rm -r /source && useradd --create-home --uid 1000 devpolicy
USER 1000
WORKDIR /work
ENTRYPOINT ["devpolicy"]
CMD ["--help"]
