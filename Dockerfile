# ckptool without torch: everything but the denoise step of `verify`. For that, see Dockerfile.verify.
FROM python:3.12-slim AS build
COPY . /source
RUN python -m venv /ckptool && /ckptool/bin/pip install --no-cache-dir --disable-pip-version-check /source

FROM python:3.12-slim
COPY --from=build /ckptool /ckptool
RUN useradd --uid 1000 --create-home --shell /usr/sbin/nologin ckptool
USER ckptool
WORKDIR /data
ENV PATH=/ckptool/bin:$PATH PYTHONDONTWRITEBYTECODE=1
ENTRYPOINT ["ckptool"]
CMD ["--help"]
