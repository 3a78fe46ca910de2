from langchain.agents import create_agent


def make(model):
    return create_agent(model, [], system_prompt="Be kind.")
