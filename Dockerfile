# The server with one checkpoint, as a container. docs/server.md explains how to run it.
#
#     docker build -t tinystories .
#     docker run --rm --init -p 127.0.0.1:7779:7779 tinystories
#     docker run --rm --init -p 127.0.0.1:7779:7779 -v "$PWD/runs/demo:/checkpoint:ro" tinystories

# the version of Python that constraints.txt was tested with
FROM python:3.11-slim

# torch for the CPU, which is far smaller than the build with CUDA. For a GPU, take the build on PyPI, or for another
# version of CUDA one of the other indices under https://download.pytorch.org/whl:
#     docker build --build-arg TORCH_INDEX=https://pypi.org/simple -t tinystories .
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu

# Spaces run a container with this uid. The user owns its home only; downloads from the Hub are stored there.
RUN useradd --uid 1000 --create-home writer \
    && install --directory --owner writer --group writer /home/writer/hub
ENV HF_HOME=/home/writer/hub

WORKDIR /app

# Dependencies before sources, so that a change of code downloads nothing again. torch comes from its own index only,
# all else from PyPI; setuptools, from [build-system], installs the sources below.
COPY pyproject.toml constraints.txt ./
RUN python -c "import tomllib; t = tomllib.load(open('pyproject.toml', 'rb')); p = t['project']; \
e = p['optional-dependencies']; r = t['build-system']['requires']; \
print(*r, *p['dependencies'], *e['web'], *e['metrics'], sep='\n')" > requirements.txt \
    && python -m pip install --no-cache-dir --no-deps --index-url "$TORCH_INDEX" -c constraints.txt torch \
    && python -m pip install --no-cache-dir -c constraints.txt -r requirements.txt

COPY README.md LICENSE model_card.md configuration_tinystories.py modeling_tinystories.py run_server.py ./
COPY configs configs
COPY tinystories tinystories
RUN python -m pip install --no-cache-dir --no-deps --no-build-isolation -e .

# The boxed model, until another checkpoint is mounted in its place.
COPY tinystories/boxed /checkpoint

USER 1000

# Every option of run_server.py is an environment variable too. CHECKPOINT_PATH can be a Hub id. Whatever HOST it listens
# on, the server answers to localhost, 127.0.0.1 and the names in ALLOWED_HOSTS only.
ENV CHECKPOINT_PATH=/checkpoint \
    HOST=0.0.0.0 \
    PORT=7779
EXPOSE 7779

# http.client, because urllib would use a proxy from the environment
HEALTHCHECK --interval=15s --timeout=5s --start-period=120s CMD ["python", "-c", "import http.client, os; \
connection = http.client.HTTPConnection('127.0.0.1', int(os.environ['PORT']), timeout=4); connection.request('GET', '/health'); \
raise SystemExit(connection.getresponse().status != 200)"]

STOPSIGNAL SIGTERM
CMD ["python", "run_server.py"]
