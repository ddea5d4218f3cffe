"""The edge gateway: what it asks of the service, and the configurations that make nginx or Envoy one."""
