"""The receiver of MLflow's registry webhooks, and the webhook's registration in MLflow.

``signature`` says which deliveries are MLflow's, ``watched`` which of them matter, ``queue`` keeps
what is to be done, ``worker`` does it, ``receiver`` is the HTTP side, ``registration`` MLflow's.
"""
