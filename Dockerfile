# panorama in a container: not root, the workspace a volume. docs/deployment.md says how to build and run it.
FROM python:3.12-slim
RUN useradd --create-home --uid 10001 panorama && install -d -o panorama -g panorama /workspace
WORKDIR /app
COPY requirements.txt constraints.txt ./
# Without a GPU: PyTorch's index of CPU wheels, which spares the libraries of CUDA.
ARG PIP_EXTRA_INDEX_URL
RUN pip install --no-cache-dir -r requirements.txt "streamlit[auth]" -c constraints.txt
COPY . .
USER panorama
ENV PANORAMA_HOME=/workspace TORCH_HOME=/workspace/torch PYTHONUNBUFFERED=1
VOLUME /workspace
EXPOSE 8501
# The first process of a container is not ended by SIGTERM before the server has a handler of its own.
STOPSIGNAL SIGINT
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
  CMD ["python", "-c", "import http.client as h; c = h.HTTPConnection('127.0.0.1', 8501, timeout=4); c.request('GET', '/_stcore/health'); raise SystemExit(c.getresponse().status != 200)"]
ENTRYPOINT ["python", "-m", "panorama"]
# It refuses to start like this, in words: say with --people who checks those that come in, and with --host under which name.
CMD ["serve", "--address", "0.0.0.0"]
