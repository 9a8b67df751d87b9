PREFIX = "/api/v1/analytics"
