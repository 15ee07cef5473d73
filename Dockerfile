# panorama in a container: not root, the workspace a volume. docs/deployment.md says how to run it.
FROM python:3.12-slim
RUN useradd --create-home --uid 10001 panorama && install -d -o panorama -g panorama /workspace
WORKDIR /app
COPY requirements.txt constraints.txt ./
RUN pip install --no-cache-dir -r requirements.txt -c constraints.txt
COPY . .
USER panorama
ENV PANORAMA_HOME=/workspace PYTHONUNBUFFERED=1
VOLUME /workspace
EXPOSE 8501
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8501/_stcore/health', timeout=4)"]
ENTRYPOINT ["python", "-m", "panorama"]
# It refuses to start like this, in words: say with --people who checks those that come in, and with --host under which name.
CMD ["serve", "--address", "0.0.0.0"]
