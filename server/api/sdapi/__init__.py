"""AUTOMATIC1111's API, ``/sdapi/v1``: a translation onto our own fields, specs and jobs."""
