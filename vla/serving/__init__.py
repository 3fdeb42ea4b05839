"""Policies over the network: a websocket server and client that speak the openpi protocol, and tokens between ours."""
