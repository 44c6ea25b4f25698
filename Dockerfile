# One image for the application, the producer, and Spark's master and workers: driver and executors need the same Python
# and the same packages.
FROM python:3.12-slim-bookworm

RUN apt-get update \
 && apt-get install -y --no-install-recommends openjdk-17-jre-headless procps \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --create-home iot \
 && install -d -o iot /state

WORKDIR /iot
COPY requirements.lock .
RUN pip install --no-cache-dir --require-hashes -r requirements.lock
COPY iot iot
COPY *.py ./
# Fetches the jars of Kafka's clients and Spark's connector, as the user who needs them.
USER iot
RUN python -m iot.java

ENV SPARK_HOME=/usr/local/lib/python3.12/site-packages/pyspark PYSPARK_PYTHON=/usr/local/bin/python3.12
