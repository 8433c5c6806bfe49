# Serves the model that is mounted at /model. The commands are those of docs/serving.md.
#   docker build -t allround .
#   docker run --rm -p 8000:8000 -e ALLROUND_API_KEYS -v "$PWD/runs/support/best:/model:ro" allround
FROM python:3.12-slim

WORKDIR /allround
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src src
RUN pip install -c constraints.txt '.[text,lora,serve]'

USER nobody
WORKDIR /tmp
ENV HF_HUB_OFFLINE=1
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/readyz')"]
CMD ["allround", "serve", "/model", "--host", "0.0.0.0", "--port", "8000"]
