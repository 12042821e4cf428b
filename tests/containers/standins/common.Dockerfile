# What stands in for the others: one image, kept between runs.
FROM millrace-standin-python
RUN apt-get update -qq \
    && DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends \
        memcached nginx-light openjdk-17-jre-headless prometheus wget \
    && apt-get clean
